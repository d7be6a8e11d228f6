// Entry point. The key arrives in the fragment ('#') of the printed URL, is stored in the browser,
// and is removed from the address bar at once.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import "./styles.css";

const KEY = "thumbwheel.key";

function takeKey(): string {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    localStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname);
  }
  return localStorage.getItem(KEY) ?? "";
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App
      initialKey={takeKey()}
      keepKey={(key) => {
        localStorage.setItem(KEY, key);
      }}
    />
  </StrictMode>,
);
