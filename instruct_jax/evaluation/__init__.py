"""Evaluation of finished models from plain rows: judged responses, reward-model scores, pretraining-task
answers.
"""
