// No inline scripts or styles, so that the gateway's strict content policy holds. Chat, arena, reviews
// and tokenizer are pages of their own, so that none loads the code of another.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  base: "./",
  build: {
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    rolldownOptions: { input: ["index.html", "arena.html", "review.html", "tokenizer.html"] },
  },
  // Rank files are outside of this folder, in models/.
  server: { proxy: { "/api": "http://127.0.0.1:8080" }, fs: { allow: ["../.."] } },
});
