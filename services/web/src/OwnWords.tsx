// Written feedback of the user on an answer, with buttons to change or retract each part.
import type { FeedbackValue, Message } from "./wire";

interface Props {
  message: Message;
  tell: (value: FeedbackValue) => Promise<void>;
  changeReasons: () => void;
}

export function OwnWords({ message, tell, changeReasons }: Props) {
  const { thumbUp, thumbReasons = [], thumbComment = "", correction = "" } = message;
  const rated = thumbUp !== undefined && (thumbReasons.length > 0 || thumbComment !== "");
  if (!rated && !correction) return null;
  return (
    <div className="own-words">
      {rated && (
        <p>
          <span className="quiet">You said: </span>
          {[thumbReasons.join(", "), thumbComment && `“${thumbComment}”`].filter(Boolean).join(" · ")}
          <button className="link" onClick={changeReasons}>Change</button>
          <button className="link" aria-label="Take back what you said" onClick={() => void tell({ thumb: { up: thumbUp } })}>Take back</button>
        </p>
      )}
      {correction && (
        <p>
          <span className="quiet">Your better answer: </span>
          <q>{correction}</q>
          <button className="link" aria-label="Take back your better answer" onClick={() => void tell({ retraction: { kind: "correction" } })}>
            Take back
          </button>
        </p>
      )}
    </div>
  );
}
