// The pages, in the order of the menu.
import type { ComponentType } from "preact";
import type { Place } from "../route";
import { Overview } from "./overview";

export interface PageProps {
  place: Place;
  role: string;
}
export interface ConsolePage {
  path: string;
  title: string;
  isInMenu: boolean;
  View: ComponentType<PageProps>;
}

export const PAGES: ConsolePage[] = [
  { path: "", title: "Overview", isInMenu: true, View: Overview },
];
