// The page: conversations and the loop at the side, one conversation in the middle, the user's data
// in a dialog.
import { useCallback, useEffect, useMemo, useState } from "react";
import { Api, ApiError } from "./api";
import { Chat } from "./Chat";
import { KeyForm } from "./KeyForm";
import { Sidebar } from "./Sidebar";
import type { Account, Consent, Conversation } from "./wire";
import { YourData } from "./YourData";

const OPEN = "thumbwheel.conversation";

export function App({ initialKey, keepKey }: { initialKey: string; keepKey: (key: string) => void }) {
  const [key, setKey] = useState(initialKey);
  const [refused, setRefused] = useState("");
  const [conversations, setConversations] = useState<Conversation[]>([]);
  // A new chat has no id before its first message; the serial number gives its React component a
  // key.
  const [open, setOpen] = useState({ id: sessionStorage.getItem(OPEN) ?? "", serial: 0 });
  const [drawer, setDrawer] = useState(false);
  const api = useMemo(() => new Api(key), [key]);
  // Null if unknown, or if the key lacks the permission.
  const [account, setAccount] = useState<Account | null>(null);
  const [consent, setConsent] = useState<Consent | null>(null);
  const [yourData, setYourData] = useState(false);

  const refresh = useCallback(async () => {
    if (!key) return;
    try {
      setConversations(await api.conversations());
      setRefused("");
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) setRefused(error.message);
    }
  }, [api, key]);

  useEffect(() => void refresh(), [refresh]);

  useEffect(() => {
    setAccount(null);
    setConsent(null);
    if (!key) return;
    api.account().then(setAccount, () => setAccount(null));
    api.consent().then(setConsent, () => setConsent(null));
  }, [api, key]);

  function show(id: string) {
    sessionStorage.setItem(OPEN, id);
    setOpen((now) => ({ id, serial: now.serial + 1 }));
    setDrawer(false);
  }

  // A stable function: a changed function would reload the conversation, and old data would replace
  // the newest message.
  const named = useCallback(
    (id: string) => {
      sessionStorage.setItem(OPEN, id);
      void refresh();
    },
    [refresh],
  );

  async function remove(id: string) {
    await api.remove(id);
    await refresh();
    if (sessionStorage.getItem(OPEN) === id) show("");
  }

  if (!key || refused) {
    return (
      <KeyForm
        problem={refused}
        enter={(given) => {
          keepKey(given);
          setKey(given);
          setRefused("");
        }}
      />
    );
  }
  return (
    <div className="page">
      <Sidebar
        api={api}
        // The loop shows samples of all users and therefore requires a key with the scope.
        operator={account?.scopes.includes("operate") ?? false}
        conversations={conversations}
        current={open.id}
        open={drawer}
        show={show}
        remove={remove}
        close={() => setDrawer(false)}
        showYourData={account ? () => setYourData(true) : null}
      />
      <Chat
        key={open.serial}
        api={api}
        conversationId={open.id}
        trains={consent?.training ?? true}
        named={named}
        openDrawer={() => setDrawer(true)}
      />
      {yourData && account && (
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
