// The pages, in the order of the menu.
import type { ComponentType } from "preact";
import type { Place } from "../route";
import { Audit } from "./audit";
import { ControlLog } from "./control_log";
import { History } from "./history";
import { Job } from "./job";
import { Letters } from "./letters";
import { Node } from "./node";
import { Nodes } from "./nodes";
import { Overview } from "./overview";
import { Projections } from "./projections";
import { Session } from "./session";
import { Sessions } from "./sessions";
import { TryIt } from "./try_it";
import { Waiting } from "./waiting";

export interface PageProps {
  place: Place;
  role: string;
  /** The tenant of the token; `*` for all. */
  tenant: string;
}
export interface ConsolePage {
  path: string;
  title: string;
  isInMenu: boolean;
  View: ComponentType<PageProps>;
}

export const PAGES: ConsolePage[] = [
  { path: "", title: "Overview", isInMenu: true, View: Overview },
  { path: "sessions", title: "Sessions", isInMenu: true, View: Sessions },
  { path: "session", title: "Session", isInMenu: false, View: Session },
  { path: "job", title: "Job", isInMenu: false, View: Job },
  { path: "history", title: "History", isInMenu: true, View: History },
  { path: "nodes", title: "Nodes", isInMenu: true, View: Nodes },
  { path: "node", title: "Node", isInMenu: false, View: Node },
  { path: "waiting", title: "Waiting", isInMenu: true, View: Waiting },
  { path: "dead-letters", title: "Dead letters", isInMenu: true, View: Letters },
  { path: "projections", title: "Projections", isInMenu: true, View: Projections },
  { path: "audit", title: "Audit", isInMenu: true, View: Audit },
  { path: "control-log", title: "Control log", isInMenu: true, View: ControlLog },
  { path: "try-it", title: "Try it", isInMenu: true, View: TryIt },
];
