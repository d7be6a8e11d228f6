// Agreement of the reviewers of the tenant, by scale and of the rankings.
import { useEffect, useState } from "react";
import type { Api } from "../api";
import { Interval } from "../Interval";
import type { ReviewAgreement } from "../wire";
import { countsOf, shownAgreements } from "./agreement";
import { reviewProblem } from "./problems";

export function AgreementView({ api }: { api: Api }) {
  const [found, setFound] = useState<ReviewAgreement | null>(null);
  const [problem, setProblem] = useState("");
  // Number of the attempt.
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    let gone = false;
    setProblem("");
    api.agreement().then(
      (agreement) => !gone && setFound(agreement),
      (error: unknown) => !gone && setProblem(reviewProblem(error).text),
    );
    return () => {
      gone = true;
    };
  }, [api, attempt]);

  return (
    <>
      <h1>Agreement of the reviewers</h1>
      {problem && <p className="problem" role="alert">{problem}</p>}
      {problem && <button onClick={() => setAttempt(attempt + 1)}>Try again</button>}
      {found && (
        <>
          <p role="status">{countsOf(found)}</p>
          <div className="wide">
            <table aria-label="Agreement">
              <thead>
                <tr>
                  <th scope="col">Scale</th>
                  <th scope="col">Alpha</th>
                  <th scope="col">95 % interval</th>
                  <th scope="col">Answers</th>
                </tr>
              </thead>
              <tbody>
                {shownAgreements(found.agreements).map(({ scale, alpha, range, units, bar }) => (
                  <tr key={scale}>
                    <th scope="row">{scale}</th>
                    <td>{alpha || "not defined"}</td>
                    <td>{bar && <Interval {...bar} words={range} />}</td>
                    <td>{units}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <p className="quiet">
            Alpha: Krippendorff’s, of 1 for perfect agreement and 0 for agreement by chance; not defined if all scores are
            equal. Answers: those with at least two scores or ranks. Reviews that a disagreement asked for are left out.
          </p>
        </>
      )}
    </>
  );
}
