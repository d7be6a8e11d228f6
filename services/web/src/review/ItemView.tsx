// An item to judge: the conversation up to the question, and the answers side by side.
import { AnswerColumn } from "../AnswerColumn";
import { AnswerText } from "../AnswerText";
import type { AppealedBlock, ReviewItem } from "../wire";
import { answerTitle } from "./scales";

/** Longer conversations show the last message, and the earlier ones on demand. */
const MOST_OPEN_MESSAGES = 7;

type ContextMessage = ReviewItem["context"][number];

export function ItemView({ item }: { item: ReviewItem }) {
  const earlier = item.context.slice(0, -1);
  const last = item.context.slice(-1);
  return (
    <>
      <section className="conversation-so-far" aria-label="Conversation">
        {earlier.length > 0 && (
          <details open={item.context.length <= MOST_OPEN_MESSAGES}>
            <summary className="quiet">Earlier messages ({earlier.length})</summary>
            <Messages messages={earlier} />
          </details>
        )}
        <Messages messages={last} />
      </section>
      {item.appeal && <Block appeal={item.appeal} />}
      <div className="columns">
        {item.answers.map(({ answerId, text }) => (
          <AnswerColumn key={answerId} title={answerTitle(answerId)}>
            <AnswerText message={{ text }} running={false} />
          </AnswerColumn>
        ))}
      </div>
    </>
  );
}

function Block({ appeal: { isAnswer, category, score, policyVersion, reason } }: { appeal: AppealedBlock }) {
  return (
    <section className="own-words" aria-label="Block">
      <p>
        The guard {isAnswer ? "ended the answer" : "refused this message"}: {category || "no category"}, score {score.toFixed(2)}, policy {policyVersion || "unknown"}.
      </p>
      {reason && <p><span className="quiet">Reason of the user: </span><q>{reason}</q></p>}
    </section>
  );
}

function Messages({ messages }: { messages: readonly ContextMessage[] }) {
  // The messages of an item never change, so their place is the key.
  return messages.map(({ role, text }, place) =>
    role === "ROLE_ASSISTANT" ? (
      <article key={place} className="answer" aria-label="Earlier answer">
        <AnswerText message={{ text }} running={false} />
      </article>
    ) : (
      <div key={place} className="question">
        {role === "ROLE_SYSTEM" && <span className="quiet">Instruction of the application</span>}
        <div className="bubble">{text}</div>
      </div>
    ),
  );
}
