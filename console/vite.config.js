// The build of the console: static files with relative addresses, for any base path of a gateway.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  // The client of clients/js has a class for nodes, which the console does not use.
  resolve: { alias: { "node:crypto": fileURLToPath(new URL("src/no_node.ts", import.meta.url)) } },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../eventsched/gateway/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the policy of the page allows no inline code
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});
