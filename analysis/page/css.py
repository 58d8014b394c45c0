"""The report's style sheet. Figures stand on white in dark mode too: they are the files that papers use."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --quiet: #5b636d; --paper: #ffffff; --card: #f6f8fa;
  --line: #d8dee4; --better: #0b6b4f; --worse: #b3401b; --warn: #fff6db; --warn-line: #d4a72c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --quiet: #9aa5b1; --paper: #0d1117; --card: #161b22; --line: #30363d;
    --better: #4cc9a0; --worse: #f0956c; --warn: #2b2410; --warn-line: #8a6d1a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 1.25rem clamp(0.9rem, 3vw, 2.25rem) 4rem; }
h1 { font-size: clamp(1.35rem, 4vw, 1.9rem); line-height: 1.2; margin: 0.5rem 0 0.9rem;
  overflow-wrap: break-word; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.8rem; overflow-wrap: break-word; }
h3 { font-size: 1rem; margin: 1.2rem 0 0.4rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 0; padding: 0; list-style: none; }
.facts li { background: var(--card); border: 1px solid var(--line); border-radius: 1rem;
  padding: 0.1rem 0.7rem; font-size: 0.85rem; overflow-wrap: break-word; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 0.3rem;
  margin: 1.4rem 0 0; padding: 0.8rem 1rem; }
.warning ul, section > ul { margin: 0.3rem 0 0; padding-left: 1.2rem; }
.quiet, .caption, figcaption { color: var(--quiet); font-size: 0.86rem; }
.caption { margin: 0.6rem 0 1.8rem; max-width: 80ch; }
figure { margin: 1.8rem 0; }
figure .scroll { background: #ffffff; border: 1px solid var(--line); border-radius: 0.5rem;
  padding: 0.75rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.5rem; max-width: 80ch; overflow-wrap: break-word; }
figcaption strong { color: var(--ink); }
/* What can be scrolled shows a shadow at the edge behind which there is more. */
.scroll { overflow-x: auto; --edge: rgba(60, 70, 85, 0.38);
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--edge), transparent) 0 0 / 0.9rem 100% no-repeat scroll,
    linear-gradient(to left, var(--edge), transparent) 100% 0 / 0.9rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 0.32rem 0.55rem; text-align: right; overflow-wrap: normal;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; min-width: 6.5rem;
  max-width: 17rem; }
tr.group th { max-width: none; padding-top: 1rem; font-weight: 700; }
tr.group th span { position: sticky; left: 0.7rem; }
.better { color: var(--better); font-weight: 600; } .worse { color: var(--worse); font-weight: 600; }
.undecided { color: var(--quiet); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: 0.15rem 1rem; margin: 0;
  font-size: 0.86rem; }
dt { color: var(--quiet); overflow-wrap: break-word; } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 0.4rem; padding: 0.8rem;
  overflow-x: auto; font-size: 0.8rem; }
.hashes td:last-child { overflow-wrap: anywhere; }
.hashes td { text-align: left;
  font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.76rem; }
.hashes th { text-align: left; }
@media (max-width: 600px) { th:first-child { max-width: 9.5rem; } th, td { padding: 0.3rem 0.5rem; } }
@page { size: A4 landscape; margin: 11mm; }
@media print {
  :root { color-scheme: light; --ink: #1f2328; --quiet: #4a525c; --paper: #ffffff; --card: #f6f8fa; --line: #c8ced6;
    --better: #0b6b4f; --worse: #b3401b; --warn: #fff6db; --warn-line: #d4a72c; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; background: none; }
  figure img { min-width: 0 !important; max-height: 148mm; object-fit: contain; }
  table { font-size: 7.6pt; } th, td { padding: 0.16rem 0.3rem; } th:first-child { position: static; }
  tr.group th span { position: static; }
  h2, h3, tr.group { break-after: avoid; } tr, figure, .warning { break-inside: avoid; }
  .caption, figcaption { max-width: none; }
  /* Paper opens nothing: what is folded on a screen is printed. */
  details::details-content { content-visibility: visible; height: auto; display: block; }
  pre { white-space: pre-wrap; }
}
"""
