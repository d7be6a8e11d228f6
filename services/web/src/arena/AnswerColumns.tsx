// The question, and the answers to it side by side.
import { AnswerColumn } from "../AnswerColumn";
import { AnswerText } from "../AnswerText";
import { answerOf, isWriting, questionOf, type Columns } from "./columns";

export function AnswerColumns({ columns, titles }: { columns: Columns; titles: readonly string[] }) {
  const question = questionOf(columns);
  return (
    <>
      {question && (
        <div className="question">
          <div className="bubble">{question.text}</div>
        </div>
      )}
      <div className="columns">
        {titles.map((title, column) => {
          const answer = answerOf(columns, column);
          const problem = columns.problems[column];
          return (
            // The titles of a battle change with its reveal, so the key is the place.
            <AnswerColumn key={column} title={title} busy={isWriting(columns, column)}>
              {answer && <AnswerText message={answer} running={isWriting(columns, column)} />}
              {problem ? <p className="problem" role="alert">{problem}</p> : !answer && <p className="quiet">…</p>}
            </AnswerColumn>
          );
        })}
      </div>
    </>
  );
}
