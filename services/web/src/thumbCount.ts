// Text about the number of thumbs and the number that a training run needs.

/**
 * Describe the number of thumbs.
 *
 * @param all current thumbs
 * @param fresh current thumbs that arrived after the last run
 * @param needed thumbs that a run needs; 0 if unknown
 * @param learned true after the first run
 */
export function thumbCount(all: number, fresh: number, needed: number, learned: boolean): string {
  const so = `${all} ${all === 1 ? "thumb" : "thumbs"} so far`;
  const news = learned ? `, ${fresh} since the last run` : "";
  if (!needed) return `${so}${news}.`;
  if (all < needed) return `${so}${news}: a run needs ${needed}.`;
  return learned && !fresh ? `${so}${news}: nothing new to learn.` : `${so}${news}: enough to run make loop.`;
}
