// The fields of replies that pages read. docs/openapi.json has all of them.
export interface Login {
  subject: string;
  role: string;
  tenant: string;
  expires: number;
}
export interface Role {
  role: string;
  projection_set: string;
  running: number;
  failing: number;
  standbys: number;
  owner: string;
  since_ms: number;
  error: string;
}
export interface Consumer {
  consumer: string;
  stream: string;
  lag: number;
  oldest_ms: number;
  is_running: boolean;
}
export interface Waiting {
  source: string;
  target: string;
  features: string[];
  jobs: number;
  oldest_ms: number;
  reason: string;
}
export interface NodeState {
  node: string;
  status: string;
  slots: number;
  leases: number;
  heartbeat_age_ms: number;
  version: string;
  drained_by: string;
  drain_ends_ms: number;
}
export interface NodeClass {
  id: string;
  sources: string[];
  targets: string[];
  features: string[];
  suspended: string[];
  nodes_total: number;
  slots: number;
  leases: number;
  nodes: NodeState[];
}
export interface Cell {
  cell: string;
  now_ms: number;
  log_entries: number;
  backpressure: string[];
  roles: Role[];
  consumers: Consumer[];
  waiting: Waiting[];
  nodes_ms: number;
  classes: NodeClass[];
  dead_letters: number;
  newest_dead_letter: string;
  stalled_timers: number;
}
export interface Status {
  server: string;
  warnings: string[];
  cells: Cell[];
}
export interface Item {
  id: string;
  tenant?: string;
  time_ms?: number;
  record?: Record<string, unknown>;
}
export interface Page {
  items: Item[];
  next: string;
}
export interface Letter {
  id: string;
  source: string;
  source_id: string;
  kind: string;
  reason: string;
  partial: boolean;
  data: string;
}
export interface LetterPage {
  dead_letters: Letter[];
  next: string;
}
export interface LogEvent {
  id: string;
  time: string;
  type: string;
  session: string;
  job: string;
  node: string;
  cause: string;
  data: Record<string, unknown>;
  text?: { text?: string; source_text?: string; [field: string]: unknown };
  undecodable?: string;
}
export interface EventPage {
  events: LogEvent[];
  next: string;
}
export interface State {
  kind: string;
  id: string;
  at: string;
  is_live: boolean;
  view: Record<string, unknown>;
}
export interface NodeAtDecision {
  node: string;
  verdict: string;
  detail: string;
  live: number;
  slots: number;
  load: number;
}
export interface ClassAtDecision {
  id: string;
  head?: string;
  load?: number;
  free?: number;
  full?: number;
  draining?: number;
}
export interface Decision {
  id: string;
  attempt: number;
  node: string;
  rule: string;
  reason: string;
  detail: string;
  /** The time that `detail` names, in the zone of the gateway; 0 for none. */
  until_ms: number;
  ahead: number;
  classes: ClassAtDecision[];
  nodes: NodeAtDecision[];
  nodes_total: number;
  is_far: boolean;
}
export interface Stage {
  name: string;
  from_ms: number;
  ms: number;
  waited_for: string;
  is_open: boolean;
  /** The entry that caused the end of an attempt. */
  cause: string;
}
export interface Explanation {
  job: string;
  session: string;
  utterance: number;
  target: string;
  outcome: string;
  code: string;
  attempts: number;
  stages: Stage[];
  decisions: Decision[];
  is_complete: boolean;
}
export interface Part {
  lane: string;
  kind: string;
  title: string;
  event: string;
  job: string;
}
export interface Span extends Part {
  from_ms: number;
  to_ms: number;
  label: string;
  is_open: boolean;
  is_retry: boolean;
  chain: string;
  outcome: string;
  utterance: number;
}
export interface Mark extends Part {
  at_ms: number;
}
export interface Moment {
  kind: string;
  at_ms: number;
  label: string;
  event: string;
}
export interface Scene {
  session: string;
  summary: string;
  from_ms: number;
  to_ms: number;
  lanes: string[];
  spans: Span[];
  marks: Mark[];
  moments: Moment[];
  is_cut: boolean;
}
export interface Timeline {
  scene: Scene;
  next: string;
}
