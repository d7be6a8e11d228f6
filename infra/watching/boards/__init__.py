"""Dashboards, a module per file, each with panels in the order of an investigation."""

from infra.watching.boards import arena, chat, evaluation, feedback, guard, models, training

BOARDS = (
    *(chat.BOARD, models.BOARD, feedback.BOARD, training.BOARD, evaluation.BOARD, guard.BOARD),
    arena.BOARD,
)
