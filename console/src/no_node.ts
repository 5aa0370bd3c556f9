// Stands in for `node:crypto`, which browsers do not have: the console runs no node.
export const randomBytes = undefined;
