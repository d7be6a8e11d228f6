"""People's judgement: battles of the arena, their votes, and the leaderboard."""
