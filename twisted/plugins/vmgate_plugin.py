"""The `vmgate` that twistd knows."""

from twisted.application.service import ServiceMaker

vmgate = ServiceMaker("vmgate", "gateway.tap", "SSH, WebSocket and HTTP into microVMs over vsock", "vmgate")
