{{/* Placement of the pods of one component. Arguments: list of root, component, its values, and
     optionally the labels of the pods that spread, if they are not those of the component. */}}
{{- define "thumbwheel.placement" -}}
{{- $values := index . 2 -}}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "thumbwheel.affinity" (list (index . 0) (index . 1) $values.affinity) | fromYaml }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $labels := include "thumbwheel.selector" (list (index . 0) (index . 1)) | fromYaml -}}
{{- if gt (len .) 3 -}}{{- $labels = index . 3 -}}{{- end -}}
{{- include "thumbwheel.spread" (list (index . 0) $labels) }}
{{- end -}}

{{/* Spread of pods over nodes and zones. Arguments: list of root and the labels of the pods. */}}
{{- define "thumbwheel.spread" -}}
{{- $root := index . 0 -}}{{- $labels := index . 1 -}}
{{- $keys := list -}}
{{- range list $root.Values.spread.nodes $root.Values.spread.zones -}}{{- if .topologyKey -}}{{- $keys = append $keys . -}}{{- end -}}{{- end -}}
{{- if $keys }}
topologySpreadConstraints:
{{- range $keys }}
  - maxSkew: 1
    topologyKey: {{ .topologyKey }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    {{- if eq .whenUnsatisfiable "DoNotSchedule" }}
    {{- with .minDomains }}
    minDomains: {{ . }}
    {{- end }}
    # A zone without usable nodes does not count, so that its pods may start in the others, and the
    # pods that an upgrade replaces do not count either.
    nodeTaintsPolicy: Honor
    matchLabelKeys: [pod-template-hash]
    {{- end }}
    labelSelector:
      matchLabels: {{- toYaml $labels | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Affinity of the values, and that to the node of a claim that one node can mount. Arguments: list
     of root, component and the affinity of the values. */}}
{{- define "thumbwheel.affinity" -}}
{{- $root := index . 0 -}}{{- $affinity := deepCopy (default dict (index . 2)) -}}
{{- $group := include "thumbwheel.nodeGroup" $root | fromJsonArray -}}
{{- if has (index . 1) $group -}}
  {{- /* The first pod matches itself, so the scheduler places it on any node. */ -}}
  {{- $together := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict
        "matchLabels" (dict "app.kubernetes.io/name" "thumbwheel" "app.kubernetes.io/instance" $root.Release.Name)
        "matchExpressions" (list (dict "key" "app.kubernetes.io/component" "operator" "In" "values" $group))) -}}
  {{- $pods := default dict $affinity.podAffinity -}}
  {{- $terms := append (default list $pods.requiredDuringSchedulingIgnoredDuringExecution) $together -}}
  {{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" $terms -}}
  {{- $_ := set $affinity "podAffinity" $pods -}}
{{- end -}}
{{- if $affinity }}{{ toYaml $affinity }}{{ end -}}
{{- end -}}

{{/* Non-empty if only one node at a time can mount the claim. The modes of an existing claim are read
     from the cluster; where that is not possible, several nodes can. Arguments: list of root, values
     with existingClaim and accessModes. */}}
{{- define "thumbwheel.isOnOneNode" -}}
{{- $root := index . 0 -}}{{- $modes := (index . 1).accessModes -}}
{{- with (index . 1).existingClaim -}}
  {{- $modes = list "ReadWriteMany" -}}
  {{- if not $root.Values.gitops -}}
    {{- with lookup "v1" "PersistentVolumeClaim" $root.Release.Namespace . -}}{{- $modes = .spec.accessModes -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if not (or (has "ReadWriteMany" $modes) (has "ReadOnlyMany" $modes)) -}}yes{{- end -}}
{{- end -}}

{{/* JSON list of the components whose pods must share a node, because each mounts a claim that only
     one node can mount. */}}
{{- define "thumbwheel.nodeGroup" -}}
{{- $group := list -}}
{{- $models := and (not (include "thumbwheel.external" .)) (include "thumbwheel.isOnOneNode" (list . .Values.models)) -}}
{{- $loop := and .Values.training.enabled (include "thumbwheel.isOnOneNode" (list . .Values.training.loop)) -}}
{{- if $models -}}
  {{- $group = concat $group (list "session" "generator" "model") -}}
  {{- if not (and (include "thumbwheel.kserve" .) .Values.models.store) -}}{{- $group = append $group "predictor" -}}{{- end -}}
{{- end -}}
{{- if $loop -}}{{- $group = append $group "gateway" -}}{{- end -}}
{{- if and .Values.training.enabled (or $models $loop) -}}{{- $group = concat $group (list "training" "ray-worker") -}}{{- end -}}
{{- $group | toJson -}}
{{- end -}}

{{/* Reject pods that share a node for a claim and are kept apart by another value. */}}
{{- define "thumbwheel.validateNodes" -}}
{{- $v := .Values -}}{{- $root := . -}}
{{- $group := include "thumbwheel.nodeGroup" . | fromJsonArray -}}
{{- if $group -}}
{{- $claim := ternary "models" "training.loop" (has "model" $group) -}}
{{- $reason := printf "%s.accessModes: ReadWriteOnce keeps the pods of %s on one node" $claim (join ", " $group) -}}
{{- $way := printf "set %s.accessModes to [ReadWriteMany], or %s.existingClaim to such a claim" $claim $claim -}}
{{- range $name, $given := $v.spread -}}
  {{- if and $given.topologyKey (eq $given.whenUnsatisfiable "DoNotSchedule") -}}{{ println (printf "spread.%s.whenUnsatisfiable: DoNotSchedule spreads each component, and %s; %s" $name $reason $way) }}{{- end -}}
{{- end -}}
{{- $selectors := dict -}}
{{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
  {{- $values := include "thumbwheel.values" (list $root $name) | fromYaml -}}
  {{- if has $name $group -}}
    {{- $_ := set $selectors (printf "services.%s.nodeSelector" $name) $values.nodeSelector -}}
    {{- range (($values.affinity).podAntiAffinity).requiredDuringSchedulingIgnoredDuringExecution -}}
      {{- if eq (get (((.labelSelector).matchLabels) | default dict) "app.kubernetes.io/component") $name -}}{{ println (printf "services.%s.affinity: podAntiAffinity keeps its pods apart, and %s; %s" $name $reason $way) }}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if has "predictor" $group -}}
  {{- $server := ternary "vllm" "predictor" (ne (include "thumbwheel.vllm" .) "") -}}
  {{- $_ := set $selectors (printf "serving.%s.nodeSelector" $server) (index $v.serving $server).nodeSelector -}}
{{- end -}}
{{- if and (has "model" $group) (include "thumbwheel.hasModelJob" .) -}}{{- $_ := set $selectors "models.import.nodeSelector" $v.models.import.nodeSelector -}}{{- end -}}
{{- if has "training" $group -}}
  {{- if eq (include "thumbwheel.rayMode" .) "kuberay" -}}
    {{- $_ := set $selectors "ray.head.nodeSelector" $v.ray.head.nodeSelector -}}
    {{- $_ := set $selectors "ray.workers.nodeSelector" $v.ray.workers.nodeSelector -}}
  {{- else -}}
    {{- $_ := set $selectors "training.nodeSelector" (include "thumbwheel.runValues" . | fromYaml).nodeSelector -}}
  {{- end -}}
{{- end -}}
{{- $first := keys $selectors | sortAlpha | first -}}{{- $others := list -}}
{{- range $name, $selector := $selectors -}}
  {{- if ne (default dict $selector | toJson) (default dict (get $selectors $first) | toJson) -}}{{- $others = append $others $name -}}{{- end -}}
{{- end -}}
{{- with join ", " $others -}}{{ println (printf "%s: differs from %s, and %s; %s" . $first $reason $way) }}{{- end -}}
{{- end -}}
{{- end -}}
