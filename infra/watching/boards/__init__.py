"""One file a dashboard: which questions it answers, in the order in which a person asks them."""

from infra.watching.boards import chat, feedback, guard, models, training

BOARDS = (chat.BOARD, models.BOARD, feedback.BOARD, training.BOARD, guard.BOARD)
