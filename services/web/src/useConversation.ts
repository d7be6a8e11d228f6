// State of one conversation: its tree, the running turn, and the actions of the user.
import { useCallback, useEffect, useRef, useState } from "react";
import { problemOf, type Api } from "./api";
import { EMPTY, apply, branch, change, choose, isOpen, noted, prepend, type Asked } from "./tree";
import { wholeTurn } from "./turn";
import type { ChatEvent, FeedbackValue, Message, SendRequest } from "./wire";

export function useConversation(api: Api, conversationId: string, named: (id: string) => void) {
  const [tree, setTree] = useState(EMPTY);
  const [id, setId] = useState(conversationId);
  const [running, setRunning] = useState<string | null>(null);
  const [problem, setProblem] = useState("");
  // Token of the page with older messages; empty if all are loaded.
  const [older, setOlder] = useState("");
  const alive = useRef(true);

  const follow = useCallback(
    async (first: AsyncGenerator<ChatEvent>, asked?: Asked) => {
      let answerId = "";
      setProblem("");
      setRunning("");
      try {
        for await (const event of wholeTurn(first, (answer, after) => api.resume(answer, after))) {
          if (!alive.current) break;
          answerId = event.messageId;
          if (event.started) {
            setRunning(answerId);
            setId(event.started.conversationId);
            named(event.started.conversationId);
          }
          setTree((now) => apply(now, event, asked));
        }
      } catch (error) {
        if (alive.current) setProblem(problemOf(error, "The connection broke."));
      }
      if (alive.current) setRunning(null);
      return answerId !== "";
    },
    [api, named],
  );

  useEffect(() => {
    alive.current = true;
    async function load() {
      try {
        const { messages = [], nextPageToken = "" } = await api.messages(conversationId);
        if (!alive.current) return;
        setOlder(nextPageToken);
        const loaded = { messages, chosen: {} };
        setTree(loaded);
        const leaf = branch(loaded).at(-1);
        if (leaf?.role === "ROLE_ASSISTANT" && isOpen(leaf)) await follow(api.resume(leaf.id, "0"));
      } catch (error) {
        if (alive.current) setProblem(problemOf(error, "The conversation could not be read."));
      }
    }
    if (conversationId) void load();
    return () => {
      alive.current = false;
    };
  }, [api, conversationId, follow]);

  async function loadOlder() {
    setOlder("");
    try {
      const { messages = [], nextPageToken = "" } = await api.messages(id, older);
      if (!alive.current) return;
      setTree((now) => prepend(now, messages));
      setOlder(nextPageToken);
    } catch (error) {
      if (!alive.current) return;
      setOlder(older);
      setProblem(problemOf(error, "Earlier messages could not be read."));
    }
  }

  function send(text: string, skipEnhancer: boolean, parentId?: string) {
    const above = parentId ?? branch(tree).at(-1)?.id ?? "";
    const request: SendRequest = { input: { text }, requestId: crypto.randomUUID(), skipEnhancer };
    if (id) request.conversationId = id;
    // The id of the conversation stands for the root of its tree, the parent of an edited first
    // message.
    if (above || id) request.parentMessageId = above || id;
    return follow(api.send(request), { text, parentId: above });
  }

  function regenerate(answer: Message) {
    return follow(api.send({ conversationId: id, regenerate: { messageId: answer.id }, requestId: crypto.randomUUID() }));
  }

  async function rate(answer: Message, value: FeedbackValue) {
    try {
      await api.feedback(answer.id, value);
      setTree((now) => change(now, answer.id, noted(value)));
      return true;
    } catch (error) {
      setProblem(problemOf(error, "Your feedback was not stored."));
      return false;
    }
  }

  return {
    tree,
    running,
    problem,
    hasOlder: older !== "",
    loadOlder,
    send,
    regenerate,
    rate,
    stop: () => (running ? api.cancel(running) : Promise.resolve()),
    show: (message: Message) => setTree((now) => choose(now, message)),
  };
}
