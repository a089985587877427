"""`GET /metrics` for Prometheus."""

from fastapi import APIRouter, Depends, Response

from server.metrics import CONTENT_TYPE
from server.web.auth import require_admin
from server.web.contract import Services


def router(services: Services) -> APIRouter:
    """Return the route, for admins; without keys everybody is one."""
    routes = APIRouter(include_in_schema=False, dependencies=[Depends(require_admin)])

    @routes.get("/metrics")
    async def get_metrics() -> Response:
        """Return the metrics of this server."""
        page = await services.scraper.render(services.model_name)
        return Response(page, media_type=CONTENT_TYPE)

    return routes
