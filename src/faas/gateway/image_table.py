"""The rows of images in the route table."""

from msgspec import Struct

from faas.gateway import images
from faas.gateway.image_wire import (
    BuildWords,
    ImagePullRequest,
    ImageReadyView,
    ImagesView,
    ImageView,
    PullStepView,
)
from faas.gateway.routing import Answer, Endpoint, Parameter
from faas.gateway.wire import ProblemView
from faas.tenancy import Scope

_TEXT = {"type": "string", "minLength": 1, "maxLength": 512, "pattern": "^[!-~]+$"}
_NAME = Parameter("name", "query", "Name of the image.", _TEXT, is_required=True)


def _choice(name: str, description: str, *known: str) -> Parameter:
    return Parameter(name, "query", description, {"type": "string", "enum": list(known)})


def _streamed(name: str, data: type[Struct], words: str) -> Answer:
    return Answer(
        200,
        f"When Accept names it: {words}, then one `done`, or one `error` with the problem.",
        media_type="text/event-stream",
        events={name: data, "done": ImageReadyView, "error": ProblemView},
    )


IMAGE_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/api/v1/images",
        images.list_images,
        "Images that can be run here",
        "images",
        (Answer(200, "All of them.", ImagesView),),
        Scope.READ,
    ),
    Endpoint(
        "DELETE",
        "/api/v1/images",
        images.remove,
        "Forget a name, and the image with its last; refused while it is in use",
        "images",
        (Answer(204, "It is gone.", media_type=""),),
        Scope.ADMIN,
        (
            _NAME,
            _choice("runtime", "Where the name is kept; anywhere when not said.", *images.KEEPERS),
        ),
        failures=(404, 409, 501, 503),
    ),
    Endpoint(
        "POST",
        "/api/v1/images/pull",
        images.pull,
        "Fetch an image from its registry; all who ask at once share one pull",
        "images",
        (
            Answer(200, "It is here.", ImageReadyView),
            _streamed("progress", PullStepView, "events `progress` as it comes"),
        ),
        Scope.EXECUTE,
        body=ImagePullRequest,
        failures=(404, 413, 415, 429, 501, 503, 504),
    ),
    Endpoint(
        "POST",
        "/api/v1/images/build",
        images.build,
        "Build an image from a tar with a Dockerfile, by the Docker Engine",
        "images",
        (
            Answer(200, "It is built.", ImageReadyView),
            _streamed("output", BuildWords, "events `output` with what the build says"),
        ),
        Scope.ADMIN,
        (
            _NAME,
            Parameter(
                "dockerfile", "query", "Its path in the tar; `Dockerfile`.", {"type": "string"}
            ),
            Parameter("target", "query", "The stage to stop at.", {"type": "string"}),
            Parameter("args", "query", "Build arguments, a JSON object.", {"type": "string"}),
            _choice("network", "What RUN may reach; `default`.", *images.NETWORKS),
            _choice("no_cache", "Build every step anew.", "true", "false"),
        ),
        body=ImagePullRequest,
        body_media_types=images.TAR,
        failures=(413, 415, 429, 501, 503, 504),
        # Told on the reference page, as below: no generator of examples can make a tar.
        is_documented=False,
    ),
    Endpoint(
        "POST",
        "/api/v1/images/import",
        images.import_image,
        "Import a tar: a file system, an OCI layout, or what docker save writes",
        "images",
        (Answer(200, "It is here.", ImageView),),
        Scope.ADMIN,
        (_NAME,),
        body=ImagePullRequest,
        body_media_types=images.TAR,
        failures=(413, 415, 501, 503, 504),
        is_documented=False,
    ),
)
