// Text about the number of thumbs and the number that a training run needs.

/**
 * Describe the number of thumbs.
 *
 * @param all current thumbs
 * @param fresh current thumbs that arrived after the last run
 * @param needed thumbs that a run needs; 0 if unknown
 * @param learned true after the first run
 * @param tooFew true if the last run had too few thumbs or pairs
 */
export function thumbCount(all: number, fresh: number, needed: number, learned: boolean, tooFew: boolean): string {
  const so = `${all} ${all === 1 ? "thumb" : "thumbs"} so far`;
  const news = learned ? `, ${fresh} since the last run` : "";
  if (!needed) return `${so}${news}.`;
  if (all < needed) return `${so}${news}: a run needs ${needed}.`;
  if (learned && !fresh) return `${so}${news}: nothing new to learn.`;
  if (tooFew) return `${so}${news}. The last run lacked feedback: ask a question twice, rate one answer up and the other down, and run make loop again.`;
  return `${so}${news}: enough to run make loop, if there are pairs among them (a liked and a disliked answer to the same question).`;
}
