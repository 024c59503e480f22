"""All views of the page, in the states that tests, screenshots and measurements show. A new view has its line here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """A view in one state.

    Parameters
    ----------
    name
        Of its screenshot.
    module
        Its file in `web/js/views`.
    route
        The part of the address after `#`. `{dataset}`, `{job_done}` and the like are ids of the state, see `tests.web.seeding`.
    state
        State of the service: `empty`, `lab` or `large`.
    """

    name: str
    module: str
    route: str
    state: str = "lab"

    def address(self, ids: dict[str, str]) -> str:
        """Return the route with the ids of a seeded service."""
        return self.route.format_map(ids)


VIEWS = (
    View("home", "home", "/"),
    View("home-filtered", "home", "/?job_state=done&tag=M1"),
    View("home-nothing-found", "home", "/?text=nothing"),
    View("home-empty", "home", "/", "empty"),
    View("home-large", "home", "/", "large"),
    View("add", "add", "/add"),
    View("dataset", "dataset", "/datasets/{dataset}"),
    View("dataset-trials", "dataset", "/datasets/{dataset}?tab=trials"),
    View("dataset-options", "dataset", "/datasets/{dataset}?tab=options"),
    View("dataset-related", "dataset", "/datasets/{dataset}?tab=related"),
    View("dataset-ingesting", "dataset", "/datasets/{dataset_ingesting}"),
    View("dataset-rejected", "dataset", "/datasets/{dataset_rejected}"),
    View("dataset-large", "dataset", "/datasets/{dataset}", "large"),
    View("search", "search", "/search?dataset={dataset}"),
    View("search-again", "search", "/search?dataset={dataset}&from={job_leaking}"),
    View("search-empty", "search", "/search", "empty"),
    View("job", "job", "/jobs/{job_done}"),
    View("job-report", "job", "/jobs/{job_done}?tab=report"),
    View("job-hyperparameters", "job", "/jobs/{job_done}?tab=hyperparameters"),
    View("job-decisions", "job", "/jobs/{job_done}?tab=decisions"),
    View("job-settings", "job", "/jobs/{job_done}?tab=settings"),
    View("job-events", "job", "/jobs/{job_running}?tab=events"),
    View("job-running", "job", "/jobs/{job_running}"),
    View("job-queued", "job", "/jobs/{job_queued}"),
    View("job-paused", "job", "/jobs/{job_paused}"),
    View("job-failed", "job", "/jobs/{job_failed}"),
    View("job-leaking", "job", "/jobs/{job_leaking}"),
    View("job-leaking-report", "job", "/jobs/{job_leaking}?tab=report"),
    View("job-large", "job", "/jobs/{job_done}", "large"),
    View("job-large-hyperparameters", "job", "/jobs/{job_done}?tab=hyperparameters", "large"),
    View("job-large-decisions", "job", "/jobs/{job_done}?tab=decisions", "large"),
    View("model", "model", "/models/{model}"),
    View("model-psth", "model", "/models/{model}?tab=psth"),
    View("model-scores", "model", "/models/{model}?tab=scores"),
    View("model-decoding", "model", "/models/{model}?tab=decoding"),
    View("model-about", "model", "/models/{model}?tab=about"),
    View("model-training", "model", "/models/{model_training}"),
    View("inference", "model", "/inferences/{inference_done}"),
    View("inference-queued", "model", "/inferences/{inference_queued}"),
    View("trajectories", "model", "/models/{model}?tab=trajectories"),
    View("trajectories-single", "model", "/models/{model}?tab=trajectories&trials=single"),
    View("trajectories-large", "model", "/models/{model}?tab=trajectories&trials=single", "large"),
    View("model-large", "model", "/models/{model}", "large"),
    View("model-large-psth", "model", "/models/{model}?tab=psth", "large"),
    View("model-large-scores", "model", "/models/{model}?tab=scores", "large"),
    View("compare", "compare", "/compare?models={model},{model_leaking}"),
    View("compare-jobs", "compare", "/compare?models={job_done},{job_leaking}"),
    View("compare-empty", "compare", "/compare", "empty"),
    View("share-incomplete", "share", "/share"),
    View("use", "use", "/use"),
    *(
        View(f"use-{tab}", "use", f"/use?tab={tab}")
        for tab in ("shares", "webhooks", "retention", "keys", "audit", "workers", "tenants", "service")
    ),
    View("use-workers-empty", "use", "/use?tab=workers", "empty"),
    View("use-large", "use", "/use", "large"),
    View("help", "help", "/help"),
)
