{{/* What the chart knows of each service, and nobody configures: its door, whom it calls, what it needs, and the commands that make its
     stores ready. */}}
{{- define "thumbwheel.known" -}}
gateway: {port: 50051, http: true, database: gateway, valkey: true, calls: [guardrail, enhancer, session, generator, feedback], keys: [principal-key], prepare: [migrate]}
guardrail: {port: 50052, calls: []}
enhancer: {port: 50053, calls: []}
session: {port: 50054, database: session, calls: [feedback], keys: [principal-key], models: true, prepare: [migrate]}
generator: {port: 50055, database: generator, calls: [predictor], models: true, prepare: [migrate]}
feedback: {port: 50056, database: feedback, calls: [], keys: [principal-key, master-key], spool: true, kafka: true, objects: true, prepare: [migrate, topics, bucket]}
{{- end -}}

{{/* The values of one service: its own over serviceDefaults. Takes a list of root and name. */}}
{{- define "thumbwheel.values" -}}
{{- $root := index . 0 -}}
{{- mustMergeOverwrite (deepCopy $root.Values.serviceDefaults) (deepCopy (default dict (index $root.Values.services (index . 1)))) | toYaml -}}
{{- end -}}

{{/* Who decides how many replicas there are: autoscaling or keda; empty: `replicas`. Takes the values of one service. */}}
{{- define "thumbwheel.scaler" -}}{{ if .autoscaling.enabled }}autoscaling{{ else if .keda.enabled }}keda{{ end }}{{- end -}}

{{/* How many there are at least and at most. */}}
{{- define "thumbwheel.least" -}}{{ with include "thumbwheel.scaler" . }}{{ (index $ .).minReplicas }}{{ else }}{{ .replicas }}{{ end }}{{- end -}}
{{- define "thumbwheel.most" -}}{{ with include "thumbwheel.scaler" . }}{{ (index $ .).maxReplicas }}{{ else }}{{ .replicas }}{{ end }}{{- end -}}

{{/* What a gateway's connections need to grow old, ten percent more than their age, less what `preStop` has waited already. */}}
{{- define "thumbwheel.gatewayLameDuckSeconds" -}}{{ max 1 (sub 34 .Values.shutdown.preStopSeconds) }}{{- end -}}

{{/* Metrics stand this far above the gRPC port. */}}
{{- define "thumbwheel.metricsPort" -}}{{ add 1000 . }}{{- end -}}
