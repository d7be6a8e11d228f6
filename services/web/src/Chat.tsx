// One conversation: its messages and the composer.
import { useLayoutEffect, useMemo, useRef } from "react";
import type { Api } from "./api";
import { Answer } from "./Answer";
import { useAppeals } from "./Appeal";
import { Composer } from "./Composer";
import { Copies } from "./copies";
import { Question } from "./Question";
import { branch, siblings } from "./tree";
import { useConversation } from "./useConversation";

const NEAR_PIXELS = 40;

interface Props {
  api: Api;
  conversationId: string;
  /** Developer of the external model that answers, empty for an own model, null if unknown. */
  provider: string | null;
  /** True if models may be trained on chats and thumbs of the user. */
  trains: boolean;
  /** True if the user is known to allow training, so that signals may be reported. */
  signals: boolean;
  named: (id: string) => void;
  openDrawer: () => void;
}

export function Chat({ api, conversationId, provider, trains, signals, named, openDrawer }: Props) {
  const talk = useConversation(api, conversationId, named);
  const copies = useMemo(() => new Copies(api), [api]);
  const shown = branch(talk.tree);
  const { appeals, submit } = useAppeals(api, shown);
  const end = useRef<HTMLDivElement>(null);
  // The view follows the end until the user scrolls up; a new message starts following again.
  // Growth of the text is not scrolling up.
  const following = useRef(true);
  const top = useRef(0);
  const scrolled = (box: HTMLElement) => {
    following.current = isAtEnd(box) || (following.current && box.scrollTop >= top.current);
    top.current = box.scrollTop;
  };
  // The last message and not the number of messages, which also grows at the top.
  const last = shown.at(-1)?.id;
  useLayoutEffect(() => {
    following.current = true;
  }, [last]);
  useLayoutEffect(() => {
    // In braces, because newer browsers return a promise, which React would treat as a clean-up
    // function.
    if (following.current) void end.current?.scrollIntoView({ block: "end" });
  });
  const busy = talk.running !== null;

  return (
    <main className="chat">
      <header>
        <button className="menu" aria-label="Open the menu" onClick={openDrawer}>☰</button>
        <span className="quiet">
          Answers can be wrong. {provider === null ? "" : trains ? "Your thumbs train the next version." : "Your chats and thumbs train nothing."}
          {provider && ` Your messages are sent to ${provider}, the provider of the model, and leave this system.`}
        </span>
      </header>
      <div
        className="messages"
        role="log"
        aria-label="Conversation"
        onScroll={(event) => scrolled(event.currentTarget)}
      >
        {shown.length === 0 && !busy && (
          <div className="welcome">
            <img src="./icon.svg" alt="" width="56" height="56" />
            <h1>What would you like to know?</h1>
            {provider === "" && <p>A model of this system answers. {trains && "Rate what it says: that is how it learns."}</p>}
            {provider && <p>A model of {provider} answers. Do not enter personal or confidential data.</p>}
          </div>
        )}
        {talk.hasOlder && (
          <button className="link" onClick={() => { following.current = false; void talk.loadOlder(); }}>Show earlier messages</button>
        )}
        {shown
          .filter((message) => message.role !== "ROLE_SYSTEM")
          .map((message) =>
            message.role === "ROLE_USER" ? (
              <Question
                key={message.id}
                message={message}
                siblings={siblings(talk.tree, message)}
                busy={busy}
                show={talk.show}
                edit={(edited) => void talk.send(edited, false, message.parentId ?? "")}
                sendAsTyped={() => void talk.send(message.originalText ?? "", true, message.parentId ?? "")}
              />
            ) : (
              <Answer
                key={message.id}
                message={message}
                siblings={siblings(talk.tree, message)}
                running={talk.running === message.id}
                busy={busy}
                show={talk.show}
                regenerate={() => void talk.regenerate(message)}
                rate={(value) => talk.rate(message, value)}
                copied={() => void copies.copied(message, signals)}
                appealed={appeals[message.id]}
                appeal={(reason) => submit(message.id, reason)}
              />
            ),
          )}
        {talk.running === "" && <p className="quiet waiting">…</p>}
        {talk.problem && <p className="problem" role="alert">{talk.problem}</p>}
        <div ref={end} />
      </div>
      <Composer busy={busy} canStop={Boolean(talk.running)} send={talk.send} stop={() => void talk.stop()} />
    </main>
  );
}

function isAtEnd(box: HTMLElement): boolean {
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PIXELS;
}
