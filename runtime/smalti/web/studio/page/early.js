// Runs before the page is shown, so that it never flashes in the other theme.
try {
  const theme = localStorage.getItem("smalti-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a browser without storage follows the system */ }
