// An answer of the model: its text while being written, its version, and the rating.
import Markdown from "react-markdown";
import { fenceCode } from "./fences";
import { Rating } from "./Rating";
import { Siblings } from "./Siblings";
import type { FeedbackValue, FinishReason, Message } from "./wire";

const ENDINGS: Partial<Record<FinishReason, string>> = {
  FINISH_REASON_LENGTH: "The answer reached its length limit.",
  FINISH_REASON_CANCELLED: "Stopped.",
  FINISH_REASON_OUTPUT_BLOCKED: "The guard ended this answer.",
  FINISH_REASON_FAILED: "The answer broke off: a service failed.",
};

interface Props {
  message: Message;
  siblings: Message[];
  running: boolean;
  busy: boolean;
  show: (message: Message) => void;
  regenerate: () => void;
  rate: (value: FeedbackValue) => Promise<boolean>;
  copied: () => void;
}

export function Answer({ message, siblings, running, busy, show, regenerate, rate, copied }: Props) {
  const ending = message.finishReason ? ENDINGS[message.finishReason] : undefined;
  return (
    <article className="answer">
      <div className={running ? "text running" : "text"} onCopy={running ? undefined : copied}>
        {/* No images: loading a remote image would reveal the answer to a third party. */}
        <Markdown disallowedElements={["img"]} unwrapDisallowed>{fenceCode(message.text ?? "", running)}</Markdown>
      </div>
      {ending && <p className="quiet">{ending}</p>}
      {!running && (
        <footer>
          <Siblings message={message} all={siblings} show={show} />
          {message.modelVersion && <Rating message={message} rate={rate} />}
          <button className="link" disabled={busy} onClick={regenerate}>Regenerate</button>
          {message.modelVersion && (
            <span className="version" title="The version of the model that wrote this">
              {message.modelVersion}
              {message.arm === "candidate" && " · on trial"}
            </span>
          )}
        </footer>
      )}
    </article>
  );
}
