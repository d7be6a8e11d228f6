{{/* Names and labels. Argument: root, or a list of root and component. */}}
{{- define "thumbwheel.fullname" -}}
{{- $chart := .Values.nameOverride | default "thumbwheel" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride }}
{{- else if contains $chart .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" (.Release.Name | trunc (sub 39 (len $chart) | int) | trimSuffix "-") $chart }}{{- end -}}
{{- end -}}

{{/* Service account of the pods that do not call the API server. */}}
{{- define "thumbwheel.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "thumbwheel.fullname" .) "default") -}}
{{- end -}}

{{/* Service account of the pods that write to the bucket. With credentials of a role one of its own, so
     that no other pod has the role. */}}
{{- define "thumbwheel.bucketAccount" -}}
{{- $given := .Values.serviceAccount -}}
{{- if ne .Values.objectStore.credentials "chain" -}}{{ include "thumbwheel.serviceAccount" . }}
{{- else -}}{{ $given.bucket.name | default ($given.create | ternary (include "thumbwheel.name" (list . "bucket")) (include "thumbwheel.serviceAccount" .)) }}{{- end -}}
{{- end -}}

{{/* Annotations of a service account, those of all and its own, as YAML. Arguments: list of root and its
     own. */}}
{{- define "thumbwheel.accountAnnotations" -}}
{{- with mustMergeOverwrite (deepCopy (index . 0).Values.serviceAccount.annotations) (index . 1) }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "thumbwheel.name" -}}
{{- printf "%s-%s" (include "thumbwheel.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* Labels of selectors, which are immutable for the lifetime of an object. */}}
{{- define "thumbwheel.selector" -}}
app.kubernetes.io/name: thumbwheel
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "thumbwheel.labels" -}}
{{- $root := index . 0 -}}
{{ include "thumbwheel.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Reference of an image. The registry of the image takes precedence over the global one.
     Arguments: list of root and image group. */}}
{{- define "thumbwheel.image" -}}
{{- $root := index . 0 -}}{{- $image := index $root.Values.images (index . 1) -}}
{{- with $image.registry | default $root.Values.imageRegistry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "thumbwheel.pullPolicy" -}}
{{- $root := index . 0 -}}
{{- (index $root.Values.images (index . 1)).pullPolicy | default $root.Values.imagePullPolicy -}}
{{- end -}}

{{- define "thumbwheel.modelsClaim" -}}
{{- .Values.models.existingClaim | default (include "thumbwheel.name" (list . "models")) -}}
{{- end -}}
