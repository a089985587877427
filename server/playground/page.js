// Ctrl+Enter or Cmd+Enter runs the edit from anywhere on the page.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  const run = document.querySelector('#run');
  if (!run || run.offsetParent === null) return;
  event.preventDefault();
  event.stopPropagation();
  // a menu takes what was typed into it when it is left
  document.activeElement?.blur();
  setTimeout(() => run.click());
}, true);

// A pasted picture goes into the first empty slot; a pasted address, outside a field, into its box.
document.addEventListener('paste', (event) => {
  const isTyping = event.target.closest?.('input, textarea, [contenteditable=true]');
  // text of an office program comes with a picture of itself
  if (isTyping && event.clipboardData?.types.includes('text/plain')) return;
  const files = [...(event.clipboardData?.files || [])].filter((file) => file.type.startsWith('image/'));
  const empty = [1, 2, 3].map((number) => document.querySelector(`#picture-${number}`))
    .find((slot) => slot && !slot.querySelector('img'));
  const input = empty?.querySelector('input[type=file]');
  if (files.length && input) {
    const transfer = new DataTransfer();
    transfer.items.add(files[0]);
    input.files = transfer.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  const text = event.clipboardData?.getData('text') || '';
  const box = document.querySelector('#picture-url input, #picture-url textarea');
  if (!isTyping && box && /^https?:\/\/\S+$/.test(text.trim())) {
    box.value = text.trim();
    box.dispatchEvent(new Event('input', {bubbles: true}));
    box.focus();
    event.preventDefault();
  }
}, true);

// What happens out of sight is brought into sight: a complaint; on a narrow screen the progress too.
const isNarrow = () => window.innerWidth < 800;
const show = (selector) =>
  document.querySelector(selector)?.scrollIntoView({behavior: 'smooth', block: 'start'});
let complaint = null;
let wasRunning = false;
new MutationObserver(() => {
  const found = document.querySelector('#ask .qe-error');
  if (found && found !== complaint) {
    const {top, bottom} = found.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) {
      found.scrollIntoView({behavior: 'smooth', block: 'center'});
    }
  }
  complaint = found;
  const isRunning = Boolean(document.querySelector('#progress .qe-progress'));
  if (isRunning && !wasRunning && isNarrow()) show('#answer');
  wasRunning = isRunning;
}).observe(document.documentElement, {childList: true, subtree: true});
document.addEventListener('click', (event) => {
  const action = event.target.closest?.('[data-action]')?.dataset.action;
  if (action === 'settings' || action === 'input') show('#ask');
  if (action === 'show') show('#answer');
});
