"""The page in a real browser. No test here is async: Playwright's loop runs beside them."""
