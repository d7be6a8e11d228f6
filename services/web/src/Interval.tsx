// An interval on a scale from 0 to 100 %, with its ends in words.

interface Props {
  /** Places of the ends in percent of the scale. */
  low: number;
  high: number;
  /** Place of the estimate. */
  mark?: number;
  words: string;
}

export function Interval({ low, high, mark, words }: Props) {
  return (
    <div className="interval">
      <span className="scale" aria-hidden="true">
        <span className="likely" style={{ left: `${low}%`, width: `${high - low}%` }} />
        {mark !== undefined && <span className="mark" style={{ left: `${mark}%` }} />}
      </span>
      <small>{words}</small>
    </div>
  );
}
