// What the live grid takes of SlickGrid; everything else is left out by the bundler.
export { SlickGrid, SlickEditorLock } from "slickgrid";
