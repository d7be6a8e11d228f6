// A row of numbers of which one is chosen: radio buttons, so that the arrow keys work.
import { useId } from "react";

interface Props {
  /** Displayed name of the row. */
  title: string;
  /** Name for screen readers. */
  label: string;
  /** Id of the description of the numbers. */
  describedBy: string;
  options: readonly (readonly [number, string])[];
  /** Undefined before the choice. */
  chosen: number | undefined;
  choose: (value: number) => void;
}

export function Choices({ title, label, describedBy, options, chosen, choose }: Props) {
  const name = useId();
  return (
    <div className="choices" role="radiogroup" aria-label={label} aria-describedby={describedBy}>
      <span aria-hidden="true">{title}</span>
      <span className="options">
        {options.map(([value, text]) => (
          <label key={value} className={value === chosen ? "on" : undefined}>
            <input type="radio" name={name} checked={value === chosen} onChange={() => choose(value)} />
            {text}
          </label>
        ))}
      </span>
    </div>
  );
}
