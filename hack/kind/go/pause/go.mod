module manifestry.dev/hack/kind/pause
go 1.26.0
