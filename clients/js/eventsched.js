// The client of eventsched gateways, for browsers and Node.js. README.md has the examples,
// docs/protocol.md of the project describes the protocol.
//
// Owns: the public names. Read next: session.js, node.js, link.js.
export { EventschedError, JobError } from "./errors.js";
export { captureMicrophone } from "./microphone.js";
export { Node } from "./node.js";
export { Session } from "./session.js";
