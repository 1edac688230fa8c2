"""The project folder and its database: the only package that opens SQLite."""

from kdstudio.project.content import NewPreference, NewPrompt, NewResponse, Preference, Prompt, Response
from kdstudio.project.project import Project
from kdstudio.project.runs import Run

__all__ = ["NewPreference", "NewPrompt", "NewResponse", "Preference", "Project", "Prompt", "Response", "Run"]
