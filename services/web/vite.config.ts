// No inline scripts or styles, so that the gateway's strict content policy holds. The chat and the
// tokenizer are pages of their own, so that neither loads the code of the other.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  base: "./",
  build: {
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    rolldownOptions: { input: ["index.html", "tokenizer.html"] },
  },
  // Rank files are outside of this folder, in models/.
  server: { proxy: { "/api": "http://127.0.0.1:8080" }, fs: { allow: ["../.."] } },
});
