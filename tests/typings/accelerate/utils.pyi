from datetime import timedelta

class InitProcessGroupKwargs:
    def __init__(self, *, timeout: timedelta | None = ...) -> None: ...

class ProjectConfiguration:
    def __init__(self, *, project_dir: str | None = ..., logging_dir: str | None = ...) -> None: ...
