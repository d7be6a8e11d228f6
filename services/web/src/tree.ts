// Tree of a conversation: an edit is a sibling of the user's message, a regeneration a sibling of
// the answer.
import type { ChatEvent, FeedbackValue, Message } from "./wire";

export interface Tree {
  messages: Message[];
  /** Displayed child by parent id; the default is the newest child. */
  chosen: Record<string, string>;
}

export const EMPTY: Tree = { messages: [], chosen: {} };

export function childrenOf(tree: Tree, parentId: string): Message[] {
  return tree.messages.filter((message) => (message.parentId ?? "") === parentId);
}

/** Return true while an answer is being written. */
export function isOpen(message: Message): boolean {
  return (message.finishReason ?? "FINISH_REASON_UNSPECIFIED") === "FINISH_REASON_UNSPECIFIED";
}

/**
 * Return the parent of the first displayed message: the root, or a message of a page that is not
 * loaded.
 */
function top(tree: Tree): string {
  const byId = new Map(tree.messages.map((message) => [message.id, message]));
  let parent = tree.messages.at(-1)?.parentId ?? "";
  for (let above = byId.get(parent); above; above = byId.get(parent)) parent = above.parentId ?? "";
  return parent;
}

/** Add a page of older messages. The displayed branch stays the same. */
export function prepend(tree: Tree, older: Message[]): Tree {
  const known = new Set(tree.messages.map((message) => message.id));
  const messages = [...older.filter((message) => !known.has(message.id)), ...tree.messages];
  const byId = new Map(messages.map((message) => [message.id, message]));
  const chosen = { ...tree.chosen };
  for (let message = branch(tree)[0]; message; message = byId.get(message.parentId ?? "")) {
    chosen[message.parentId ?? ""] ??= message.id;
  }
  return { messages, chosen };
}

/** Return the displayed branch, from the oldest loaded message to a leaf. */
export function branch(tree: Tree): Message[] {
  const shown: Message[] = [];
  let parent = top(tree);
  for (;;) {
    const children = childrenOf(tree, parent);
    const next = children.find((message) => message.id === tree.chosen[parent]) ?? children.at(-1);
    if (!next) return shown;
    shown.push(next);
    parent = next.id;
  }
}

export function siblings(tree: Tree, message: Message): Message[] {
  return childrenOf(tree, message.parentId ?? "");
}

export function choose(tree: Tree, message: Message): Tree {
  return { ...tree, chosen: { ...tree.chosen, [message.parentId ?? ""]: message.id } };
}

export function change(tree: Tree, id: string, part: Partial<Message>): Tree {
  return { ...tree, messages: tree.messages.map((message) => (message.id === id ? { ...message, ...part } : message)) };
}

/**
 * Return the feedback fields of an answer after a vote. A thumb replaces the previous thumb and its
 * words.
 */
export function noted(value: FeedbackValue): Partial<Message> {
  if ("correction" in value) return { correction: value.correction.text };
  if ("retraction" in value && value.retraction.kind === "correction") return { correction: "" };
  const thumb = "thumb" in value ? value.thumb : undefined;
  return { thumbUp: thumb?.up, thumbReasons: thumb?.reasons ?? [], thumbComment: thumb?.comment ?? "" };
}

function put(tree: Tree, message: Message): Tree {
  if (tree.messages.some((known) => known.id === message.id)) return choose(change(tree, message.id, message), message);
  return choose({ ...tree, messages: [...tree.messages, message] }, message);
}

/** A message of the user before the server has assigned its id. */
export interface Asked {
  text: string;
  parentId: string;
}

/** Apply one event of a turn to the tree. `asked` is absent for a regenerated or resumed answer. */
export function apply(tree: Tree, event: ChatEvent, asked?: Asked): Tree {
  const id = event.messageId;
  if (event.started) {
    const { userMessageId, modelVersion = "", arm = "" } = event.started;
    const user: Message = { id: userMessageId, role: "ROLE_USER", text: asked?.text ?? "", originalText: asked?.text ?? "" };
    const withUser = asked ? put(tree, { ...user, ...(asked.parentId ? { parentId: asked.parentId } : {}) }) : tree;
    return put(withUser, { id, parentId: userMessageId, role: "ROLE_ASSISTANT", text: "", modelVersion, arm });
  }
  const answer = tree.messages.find((message) => message.id === id);
  if (!answer) return tree;
  if (event.enhanced && answer.parentId) {
    return change(tree, answer.parentId, { ...event.enhanced, edits: event.enhanced.edits ?? [] });
  }
  if (event.textDelta) return change(tree, id, { text: (answer.text ?? "") + event.textDelta.text });
  if (event.completed) return change(tree, id, { finishReason: event.completed.finishReason });
  return tree;
}
