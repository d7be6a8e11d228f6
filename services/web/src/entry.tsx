// Start of a page with a session. A key arrives in the fragment ('#') of the printed URL and is
// removed from the address bar at once.
import { StrictMode, type ReactNode } from "react";
import { createRoot } from "react-dom/client";
import { Root } from "./Root";
import type { Account } from "./wire";
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

/**
 * Show a page to the user of the session, after sign-in.
 *
 * @param page Return the page; `lost` is called if the session has ended, or was replaced.
 */
export function open(page: (account: Account, lost: () => void) => ReactNode): void {
  // Outside of React, because StrictMode calls initial values twice in development.
  const link = takeLinkKey();
  createRoot(document.getElementById("root")!).render(
    <StrictMode>
      <Root
        linkKey={link}
        takeLinkKey={takeLinkKey}
        oldKey={localStorage.getItem(OLD_KEY) ?? ""}
        forgetOldKey={forgetOldKey}
        page={page}
      />
    </StrictMode>,
  );
}
