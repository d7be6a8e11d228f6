// An answer of the model: its text while being written, its version, and the rating.
import { AnswerText } from "./AnswerText";
import { Appeal, isBlocked } from "./Appeal";
import { Rating } from "./Rating";
import { Siblings } from "./Siblings";
import type { AppealState, FeedbackValue, Message } from "./wire";

interface Props {
  message: Message;
  siblings: Message[];
  running: boolean;
  busy: boolean;
  show: (message: Message) => void;
  regenerate: () => void;
  rate: (value: FeedbackValue) => Promise<boolean>;
  copied: () => void;
  /** State of the user's appeal, undefined without one. */
  appealed: AppealState | undefined;
  appeal: (reason: string) => Promise<void>;
}

export function Answer({ message, siblings, running, busy, show, regenerate, rate, copied, appealed, appeal }: Props) {
  return (
    <article className="answer">
      <AnswerText message={message} running={running} copied={copied} />
      {!running && (
        <footer>
          <Siblings message={message} all={siblings} show={show} />
          {isBlocked(message) && <Appeal state={appealed} submit={appeal} />}
          {message.modelVersion && <Rating message={message} rate={rate} />}
          <button className="link" disabled={busy} onClick={regenerate}>Regenerate</button>
          {message.modelVersion && (
            <span className="version" title="The version of the model that wrote this">
              {message.modelVersion}
              {message.arm === "candidate" && " · on trial"}
            </span>
          )}
          {message.arm === "battle" && <span className="version">Answer of a battle</span>}
        </footer>
      )}
    </article>
  );
}
