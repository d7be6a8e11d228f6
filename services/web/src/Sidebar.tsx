// Conversations of the caller and, for operators, the state of the training loop.
import type { Api } from "./api";
import { LoopPanel } from "./LoopPanel";
import type { Conversation } from "./wire";

interface Props {
  api: Api;
  operator: boolean;
  reviewer: boolean;
  conversations: Conversation[];
  current: string;
  open: boolean;
  show: (id: string) => void;
  remove: (id: string) => Promise<void>;
  close: () => void;
  showYourData: () => void;
}

export function Sidebar({ api, operator, reviewer, conversations, current, open, show, remove, close, showYourData }: Props) {
  return (
    <>
      {open && <button className="shade" aria-label="Close the menu" onClick={close} />}
      <aside className={open ? "sidebar open" : "sidebar"} aria-label="Conversations">
        <div className="brand">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <strong>Thumbwheel</strong>
        </div>
        <button className="new-chat" onClick={() => show("")}>+ New chat</button>
        <nav className="conversations">
          {conversations.map((conversation) => (
            <div key={conversation.id} className={conversation.id === current ? "conversation current" : "conversation"}>
              <button className="open" onClick={() => show(conversation.id)}>{conversation.title || "Untitled"}</button>
              <button className="remove" aria-label={`Delete ${conversation.title || "conversation"}`} onClick={() => void remove(conversation.id)}>
                ×
              </button>
            </div>
          ))}
          {conversations.length === 0 && <p className="quiet">No conversations yet.</p>}
        </nav>
        {operator && <LoopPanel api={api} />}
        <button className="your-data" aria-haspopup="dialog" onClick={showYourData}>Your data</button>
        <a className="link" href="./arena.html">Arena: compare two answers</a>
        {reviewer && <a className="link" href="./review.html">Reviews: judge stored answers</a>}
        <a className="link" href="./tokenizer.html">Tokenizer: see texts as tokens</a>
      </aside>
    </>
  );
}
