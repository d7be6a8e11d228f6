// One of several answers that are displayed side by side; below each other on narrow screens.
import type { ReactNode } from "react";

export function AnswerColumn({ title, busy = false, children }: { title: string; busy?: boolean; children: ReactNode }) {
  return (
    <section className="answer" aria-label={title} aria-busy={busy}>
      <h2>{title}</h2>
      {children}
    </section>
  );
}
