/** Names of the libraries in the page, put in by build.mjs. */
declare const GRIDVIEW: string;
declare const SLICKGRID: string;
declare module "*.css";

interface CSSStyleDeclaration {
  currentCSSZoom?: number;
}
interface Element {
  readonly currentCSSZoom?: number;
}
