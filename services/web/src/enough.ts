// Whether there are thumbs enough for a turn, in words.

/** `all` thumbs stand, `fresh` of them came since the last turn, if there was one (`learned`); a turn needs `needed`, 0: not known. */
export function enough(all: number, fresh: number, needed: number, learned: boolean): string {
  const so = `${all} ${all === 1 ? "thumb" : "thumbs"} so far`;
  const news = learned ? `, ${fresh} since the last turn` : "";
  if (!needed) return `${so}${news}.`;
  if (all < needed) return `${so}${news}: a turn needs ${needed}.`;
  return learned && !fresh ? `${so}${news}: nothing new to learn.` : `${so}${news}: enough to run make loop.`;
}
