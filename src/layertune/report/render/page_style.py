"""How the page looks: one column of tables that scroll sideways on a phone, plain black on white in print."""

STYLE = """\
:root { --ink: #1a1a1a; --paper: #ffffff; --soft: #5c5c5c; --line: #d6d6d6; --band: #f3f4f6;
  --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --soft: #a8a8a8; --line: #3a3d42; --band: #212429;
    --link: #8ab8f0; }
}
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; color: var(--ink); background: var(--paper);
  font: 15px/1.45 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; border-top: 2px solid var(--line); padding-top: 1rem; }
h3 { margin: 1.8rem 0 0.2rem; }
p { margin: 0.3rem 0 0.6rem; max-width: 60rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 0.9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.55rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.numbers td, .numbers thead th, .overview td, .overview thead th { text-align: right; }
.numbers td { white-space: nowrap; }
.numbers thead th { vertical-align: bottom; min-width: 5rem; }
.numbers thead { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); }
.numbers th:first-child, .overview th:first-child { position: sticky; left: 0; z-index: 1; text-align: left;
  background: var(--paper); font-weight: 500; min-width: 8rem; max-width: 14rem; }
.group th:first-child, .group td { background: var(--band); font-style: italic; }
.paper, .records, .detail, .side { color: var(--soft); font-size: 0.85em; }
.difference { font-size: 0.9em; border-top: 1px dotted var(--line); }
.missing .ours, .absent .ours, .stale .ours, .failed .ours, .oom .ours,
.refused .ours { color: var(--soft); }
.absent .ours, .failed .ours, .oom .ours, .refused .ours, .stale .ours { font-style: italic; }
.records a { margin-left: 0.15em; }
details.records[open] { white-space: normal; max-width: 16rem; }
sup { line-height: 0; font-size: 0.75em; }
small { color: var(--soft); }
.below { color: var(--soft); font-size: 0.9em; max-width: 70rem; margin: 0.5rem 0; padding-left: 1.1rem; }
dl.below { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 0.8rem; padding-left: 0; }
dl.below dd { margin: 0; overflow-wrap: anywhere; }
details > summary { cursor: pointer; margin: 0.5rem 0; }
code { font-size: 0.92em; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 0.6rem; font-size: 14px; }
  .numbers th:first-child { min-width: 6rem; max-width: 8rem; }
  dl.below { display: block; }
  dl.below dt { font-weight: 600; }
}
@page { size: A4 landscape; margin: 1cm; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #333; --line: #999; --band: #eee; --link: #000; }
  body { max-width: none; padding: 0; font-size: 8pt; }
  .wide { overflow: visible; }
  .numbers th:first-child { position: static; }
  .records, nav { display: none; }
  section { break-inside: avoid; }
  a { text-decoration: none; }
}
"""
