// ‹ 2 / 3 ›: navigation between the siblings of a message.
import type { Message } from "./wire";

export function Siblings({ message, all, show }: { message: Message; all: Message[]; show: (message: Message) => void }) {
  if (all.length < 2) return null;
  const at = all.findIndex((sibling) => sibling.id === message.id);
  const before = all[at - 1];
  const after = all[at + 1];
  return (
    <span className="siblings">
      <button aria-label="Previous version" disabled={!before} onClick={() => before && show(before)}>‹</button>
      {at + 1} / {all.length}
      <button aria-label="Next version" disabled={!after} onClick={() => after && show(after)}>›</button>
    </span>
  );
}
