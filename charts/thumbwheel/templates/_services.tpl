{{/* Facts of each service, generated from services/services.toml: port, calls, stores, and the
     commands that prepare the stores. */}}
{{- define "thumbwheel.known" -}}
{{- $file := .Files.Get "files/services.yaml" -}}
{{- if include "thumbwheel.external" . -}}
  {{- /* No model server: neither calls to it nor its key, and no folder with models. */}}
  {{- $known := $file | fromYaml -}}
  {{- range $name, $facts := $known -}}
    {{- $_ := set $facts "calls" (without $facts.calls "predictor") -}}
    {{- with $facts.keys -}}{{- $_ := set $facts "keys" (without . "model-server-key") -}}{{- end -}}
    {{- $_ := unset $facts "models" -}}
  {{- end -}}
  {{- toYaml $known -}}
{{- else -}}
{{ $file }}
{{- end -}}
{{- end -}}

{{/* Values of one service, merged over serviceDefaults. Arguments: list of root and name. */}}
{{- define "thumbwheel.values" -}}
{{- $root := index . 0 -}}
{{- mustMergeOverwrite (deepCopy $root.Values.serviceDefaults) (deepCopy (default dict (index $root.Values.services (index . 1)))) | toYaml -}}
{{- end -}}

{{/* Autoscaler of a service: autoscaling or keda; empty if `replicas` applies. Argument: the
     values of one service. */}}
{{- define "thumbwheel.scaler" -}}{{ if .autoscaling.enabled }}autoscaling{{ else if .keda.enabled }}keda{{ end }}{{- end -}}

{{/* Minimum and maximum number of replicas. */}}
{{- define "thumbwheel.least" -}}{{ with include "thumbwheel.scaler" . }}{{ (index $ .).minReplicas }}{{ else }}{{ .replicas }}{{ end }}{{- end -}}
{{- define "thumbwheel.most" -}}{{ with include "thumbwheel.scaler" . }}{{ (index $ .).maxReplicas }}{{ else }}{{ .replicas }}{{ end }}{{- end -}}

{{/* Seconds until all connections of a gateway have reached their maximum age plus ten percent,
     less the time of `preStop`. */}}
{{- define "thumbwheel.gatewayLameDuckSeconds" -}}{{ max 1 (sub 34 .Values.shutdown.preStopSeconds) }}{{- end -}}

{{/* Offset of the metrics port from the gRPC port. */}}
{{- define "thumbwheel.metricsPort" -}}{{ add 1000 . }}{{- end -}}
