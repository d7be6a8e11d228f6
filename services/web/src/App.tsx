// The page: conversations and the loop at the side, one conversation in the middle, the user's data
// in a dialog.
import { useCallback, useEffect, useMemo, useState } from "react";
import { Api } from "./api";
import { providerOf } from "./arena/external";
import { Chat } from "./Chat";
import { Sidebar } from "./Sidebar";
import type { Account, Consent, Conversation } from "./wire";
import { YourData } from "./YourData";

const OPEN = "thumbwheel.conversation";

interface Props {
  account: Account;
  /** Called if the session has ended, or was replaced by another tab. */
  lost: () => void;
}

export function App({ account, lost }: Props) {
  const stored = `${OPEN}.${account.tenant}/${account.user}`;
  const [conversations, setConversations] = useState<Conversation[]>([]);
  // A new chat has no id before its first message; the serial number gives its React component a
  // key.
  const [open, setOpen] = useState({ id: sessionStorage.getItem(stored) ?? "", serial: 0 });
  const [drawer, setDrawer] = useState(false);
  const api = useMemo(() => new Api(account.csrfToken ?? "", lost), [account, lost]);
  // Null if unknown.
  const [consent, setConsent] = useState<Consent | null>(null);
  // Developer of the external model that answers, empty for an own model; null if unknown.
  const [provider, setProvider] = useState<string | null>(null);
  const [yourData, setYourData] = useState(false);

  const refresh = useCallback(async () => {
    try {
      setConversations(await api.conversations());
    } catch {
      // The last list stays; a lost session is reported by the API.
    }
  }, [api]);

  useEffect(() => void refresh(), [refresh]);

  useEffect(() => {
    setConsent(null);
    api.consent().then(setConsent, () => setConsent(null));
  }, [api]);

  useEffect(() => {
    setProvider(null);
    api.models().then((models) => setProvider(providerOf(models)), () => setProvider(null));
  }, [api]);

  function show(id: string) {
    sessionStorage.setItem(stored, id);
    setOpen((now) => ({ id, serial: now.serial + 1 }));
    setDrawer(false);
  }

  // A stable function: a changed function would reload the conversation, and old data would replace
  // the newest message.
  const named = useCallback(
    (id: string) => {
      sessionStorage.setItem(stored, id);
      void refresh();
    },
    [refresh, stored],
  );

  async function remove(id: string) {
    await api.remove(id);
    await refresh();
    if (sessionStorage.getItem(stored) === id) show("");
  }

  return (
    <div className="page">
      <Sidebar
        api={api}
        // The loop shows samples of all users and therefore requires a key with the scope.
        operator={account.scopes.includes("operate")}
        reviewer={account.scopes.includes("review")}
        conversations={conversations}
        current={open.id}
        open={drawer}
        show={show}
        remove={remove}
        close={() => setDrawer(false)}
        showYourData={() => setYourData(true)}
      />
      <Chat
        key={open.serial}
        api={api}
        conversationId={open.id}
        provider={provider}
        trains={(consent?.training ?? true) && provider === ""}
        signals={consent?.training === true}
        named={named}
        openDrawer={() => setDrawer(true)}
      />
      {yourData && (
        <YourData
          api={api}
          account={account}
          consent={consent}
          said={setConsent}
          erased={() => {
            show("");
            void refresh();
          }}
          close={() => setYourData(false)}
        />
      )}
    </div>
  );
}
