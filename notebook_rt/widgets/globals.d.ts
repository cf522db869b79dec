/** Names of the libraries in the page, inserted by build.mjs. */
declare const GRIDVIEW: string;
declare const SLICKGRID: string;
declare module "*.css";
/** Rules that are loaded with the grid's view, not in a widget's state. */
declare module "*.view.css" {
  const rules: string;
  export default rules;
}

interface CSSStyleDeclaration {
  currentCSSZoom?: number;
}
interface Element {
  readonly currentCSSZoom?: number;
}
