// Text of an answer as Markdown, also while it is being written, and the reason of an unusual end.
import Markdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import { fenceCode } from "./fences";
import type { FinishReason, Message } from "./wire";

const ENDINGS: Partial<Record<FinishReason, string>> = {
  FINISH_REASON_LENGTH: "The answer reached its length limit.",
  FINISH_REASON_CANCELLED: "Stopped.",
  FINISH_REASON_OUTPUT_BLOCKED: "The guard ended this answer.",
  FINISH_REASON_FAILED: "The answer broke off: a service failed.",
};

// A table that is wider than the answer scrolls alone.
const COMPONENTS: Components = {
  table: ({ children }) => (
    <div className="wide">
      <table>{children}</table>
    </div>
  ),
};

interface Props {
  message: Pick<Message, "text" | "finishReason">;
  running: boolean;
  /** Called if the user copies text of the finished answer. */
  copied?: () => void;
}

export function AnswerText({ message, running, copied }: Props) {
  const ending = message.finishReason ? ENDINGS[message.finishReason] : undefined;
  return (
    <>
      <div className={running ? "text running" : "text"} onCopy={running ? undefined : copied}>
        {/* No images: loading a remote image would reveal the answer to a third party. */}
        <Markdown
          remarkPlugins={[[remarkGfm, { singleTilde: false }]]}
          components={COMPONENTS}
          disallowedElements={["img"]}
          unwrapDisallowed
        >
          {fenceCode(message.text ?? "", running)}
        </Markdown>
      </div>
      {ending && <p className="quiet">{ending}</p>}
    </>
  );
}
