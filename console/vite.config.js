// The build of the console: static files with relative addresses, for any base path of a gateway.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../eventsched/gateway/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the policy of the page allows no inline code
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});
