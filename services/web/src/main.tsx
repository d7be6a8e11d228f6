// Entry point. A key arrives in the fragment ('#') of the printed URL and is removed from the
// address bar at once.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Root } from "./Root";
import "./styles.css";

// Earlier versions stored the key here, and in the cookie tw_key.
const OLD_KEY = "thumbwheel.key";

function takeLinkKey(): string {
  const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
  if (key) history.replaceState(null, "", location.pathname);
  return key;
}

function forgetOldKey(): void {
  localStorage.removeItem(OLD_KEY);
  document.cookie = "tw_key=; path=/api/loop/report; max-age=0; SameSite=Strict";
}

// Outside of React, because StrictMode calls initial values twice in development.
const link = takeLinkKey();

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Root
      linkKey={link}
      takeLinkKey={takeLinkKey}
      oldKey={localStorage.getItem(OLD_KEY) ?? ""}
      forgetOldKey={forgetOldKey}
    />
  </StrictMode>,
);
