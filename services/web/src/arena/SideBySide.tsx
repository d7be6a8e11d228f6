// One question to several named versions, without a vote.
import { useEffect, useState } from "react";
import { problemOf, type Api } from "../api";
import { Composer } from "../Composer";
import { AnswerColumns } from "./AnswerColumns";
import { isWriting } from "./columns";
import { useColumns } from "./useColumns";

export function SideBySide({ api }: { api: Api }) {
  const { columns, busy, ask, stop } = useColumns(api);
  const [models, setModels] = useState<string[] | null>(null);
  const [chosen, setChosen] = useState<readonly string[]>([]);
  // Versions of the present answers, which stay when the choice changes.
  const [shown, setShown] = useState<readonly string[]>([]);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    let gone = false;
    api.models().then(
      (found) => {
        if (gone) return;
        setModels(found.models);
        setChosen(found.models);
      },
      (error: unknown) => !gone && setProblem(problemOf(error)),
    );
    return () => {
      gone = true;
    };
  }, [api]);

  function toggle(model: string) {
    // In the order of the versions, so that the columns keep their places.
    setChosen((now) => (models ?? []).filter((each) => (each === model ? !now.includes(each) : now.includes(each))));
  }

  function send(text: string, asTyped: boolean) {
    setShown(chosen);
    return ask(text, asTyped, chosen);
  }

  return (
    <>
      {models && (
        <fieldset disabled={busy}>
          <legend>Versions</legend>
          {models.map((model) => (
            <label key={model}>
              <input type="checkbox" checked={chosen.includes(model)} onChange={() => toggle(model)} /> {model}
            </label>
          ))}
        </fieldset>
      )}
      {models?.length === 1 && <p className="quiet">Only one version is served at present.</p>}
      {problem && <p className="problem" role="alert">{problem}</p>}
      <AnswerColumns columns={columns} titles={shown} />
      <p role="status" className="quiet">{shown.length > 0 && (busy ? "The versions are answering." : "All answers are complete.")}</p>
      {chosen.length > 0 && (
        <Composer
          busy={busy}
          canStop={columns.ids.some((_, column) => isWriting(columns, column))}
          send={send}
          stop={() => void stop()}
        />
      )}
    </>
  );
}
