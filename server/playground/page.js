// Ctrl+Enter or Cmd+Enter runs the edit from anywhere on the page.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  const run = document.querySelector('#run');
  if (!run || run.offsetParent === null) return;
  event.preventDefault();
  event.stopPropagation();
  // a menu reads what was typed when it loses the focus
  document.activeElement?.blur();
  setTimeout(() => run.click());
}, true);

// Lock the seed when one is entered, unlock it when the field is emptied. Gradio's input event
// misses a paste.
document.addEventListener('input', (event) => {
  if (!event.target.closest('#seed')) return;
  const lock = document.querySelector('#seed-lock input');
  if (lock.checked !== Boolean(event.target.value.trim())) lock.click();
});

// Put images into the empty slots, in order. A slot counts as taken while its upload is under way,
// so that a second image does not replace the first.
const taken = new WeakMap();
const isFree = (slot) => slot.querySelector('input[type=file]') && !slot.querySelector('img') &&
  !(Date.now() - (taken.get(slot) || 0) < 5000);
const addImages = (files) => {
  const images = [...files].filter((file) => file.type.startsWith('image/'));
  const slots = [...document.querySelectorAll('#slots > [id^=image-]')].filter(isFree);
  for (const [index, slot] of slots.slice(0, images.length).entries()) {
    const transfer = new DataTransfer();
    transfer.items.add(images[index]);
    const input = slot.querySelector('input[type=file]');
    input.files = transfer.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
    taken.set(slot, Date.now());
  }
  return images.length > 0 && slots.length > 0;
};

// Accept files dropped anywhere: by default the browser would leave the page to open them.
for (const name of ['dragover', 'drop']) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes('Files') || event.defaultPrevented) return;
    event.preventDefault();
    if (name === 'drop') addImages(event.dataTransfer.files);
  });
}

// A pasted image goes into the first empty slot; a URL pasted outside a field into the URL field.
document.addEventListener('paste', (event) => {
  const isTyping = event.target.closest?.('input, textarea, [contenteditable=true]');
  // office programs copy text together with an image of it
  if (isTyping && event.clipboardData?.types.includes('text/plain')) return;
  if (addImages(event.clipboardData?.files || [])) {
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  const text = event.clipboardData?.getData('text') || '';
  const box = document.querySelector('#image-url input, #image-url textarea');
  if (!isTyping && box && /^https?:\/\/\S+$/.test(text.trim())) {
    box.value = text.trim();
    box.dispatchEvent(new Event('input', {bubbles: true}));
    box.focus();
    event.preventDefault();
  }
}, true);

// Scroll to a new error that is out of sight; on a narrow screen to the progress, too.
const isNarrow = () => window.innerWidth < 800;
const show = (selector) =>
  document.querySelector(selector)?.scrollIntoView({behavior: 'smooth', block: 'start'});
let shownError = null;
let wasRunning = false;
new MutationObserver(() => {
  const found = document.querySelector('#edit-form .qe-error');
  if (found && found !== shownError) {
    const {top, bottom} = found.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) {
      found.scrollIntoView({behavior: 'smooth', block: 'center'});
    }
  }
  shownError = found;
  const isRunning = Boolean(document.querySelector('#progress .qe-progress'));
  if (isRunning && !wasRunning && isNarrow()) show('#results');
  wasRunning = isRunning;
}).observe(document.documentElement, {childList: true, subtree: true});
document.addEventListener('click', (event) => {
  const action = event.target.closest?.('[data-action]')?.dataset.action;
  if (action === 'settings' || action === 'input') show('#edit-form');
  if (action === 'show') show('#results');
});
